"""The commands: names and paths in, files out. One thin Typer file per command."""
