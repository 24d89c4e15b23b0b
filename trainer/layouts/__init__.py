"""The layouts that data sets come in: one file a layout."""
