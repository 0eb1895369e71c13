"""An app whose models are broadcast, for the tests of the model layer."""
