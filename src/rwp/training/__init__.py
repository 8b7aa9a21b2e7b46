"""Training: the loop, its schedule, its checkpoints; it knows neither DAG nor tracking server."""
