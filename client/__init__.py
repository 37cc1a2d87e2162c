"""The edge: a Flower ClientApp that trains on the data of one machine."""
