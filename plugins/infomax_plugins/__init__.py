"""The encoders, losses and datasets that come with infomax, on equal terms with anyone else's."""
