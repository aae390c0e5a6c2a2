"""Errors of the data floor. Each says what is wrong, where, and what to do."""


class DatasetError(ValueError):
    """A data set cannot be registered, read or written as asked."""


class SampleError(ValueError):
    """One image or annotation cannot be made into a training sample; names the file and the ids."""
