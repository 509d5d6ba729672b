"""From a slide and a model to class maps and objects, by exact tiles."""
