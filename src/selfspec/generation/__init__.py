"""Generation: the base model writes tasks (`instructions`) and answers them (`responses`), block by block."""
