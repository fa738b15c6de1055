"""Where the unimodal labels come from."""
