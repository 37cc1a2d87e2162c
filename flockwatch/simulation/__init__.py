"""A whole federation on one machine: `flockwatch local`, and generated machines with faults."""
