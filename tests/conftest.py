"""Settings that must stand before ray, torch or mlflow are imported."""

import os

os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="disabled",
    OMP_NUM_THREADS="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
)
