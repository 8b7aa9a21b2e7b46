"""The doors: names and paths in, files out. One thin Typer file per verb."""
