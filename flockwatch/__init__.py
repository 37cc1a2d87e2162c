"""The front door: the command line of flockwatch."""
