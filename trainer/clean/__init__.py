"""A look at one's own images before training: what the model finds odd, what is there twice, labelling by key."""
