"""`python -m rwp` is `rwp`."""

from rwp.commands.app import main

main()
