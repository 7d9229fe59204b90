"""Algorithm 1: the loop (`train`), its step (`Trainer`) and the objective of both phases, optimizers, checkpoints, and
what a run keeps of its history. Importing the package alone costs nothing."""
