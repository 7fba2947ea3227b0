"""The verbs, one file each: options in, a call into the core, a table out."""
