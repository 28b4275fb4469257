"""Language models in few bits: statistics, solvers, recipes, and the modules that run them."""
