"""Ready settings by name (`--preset`), one YAML file each."""
