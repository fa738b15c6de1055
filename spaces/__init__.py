"""Search spaces, studies and configurations as YAML data."""
