"""Imported by the process that the runs are forked from: everything that takes time to import and starts no thread."""

from bnfold.experiment import work as work
from bnfold.formats.keras.backend import import_keras

import_keras()
