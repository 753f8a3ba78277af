"""The files of a lasting federation, held to its log: a module for each kind."""
