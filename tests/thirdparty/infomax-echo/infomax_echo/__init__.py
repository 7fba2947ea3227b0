"""An example of plugins for infomax. All that it knows of infomax is `infomax_cli.core.api`."""
