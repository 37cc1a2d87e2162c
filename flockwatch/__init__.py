"""The command line of flockwatch, and what runs a whole federation on one machine."""
