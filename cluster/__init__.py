"""Where it runs and what is kept: recipe, trials, drivers, ledger, MLflow, command line."""
