"""Makes the models: data, networks, training loop, export. The only package that knows torch."""
