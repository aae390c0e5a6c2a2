"""Tensors in, tensors out: operators that know no instances and no config."""
