"""An autoencoder trained with stock Flower."""
