"""How good it is: data, training, analyses of trained networks."""
