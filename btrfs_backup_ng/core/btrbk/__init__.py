"""The import of a configuration of btrbk."""
