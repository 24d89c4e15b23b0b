"""From a trained network to the graphs and plans that engines load."""
