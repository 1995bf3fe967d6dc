"""The services of omero.api, one module each. `table.py` says which name belongs to which class."""
