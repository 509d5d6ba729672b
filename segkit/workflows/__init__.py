"""The verbs: one file each, from a configuration to files. They print nothing and serve notebooks as they are."""
