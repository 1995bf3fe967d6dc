"""How a manifest is made and judged: looking, reading, hashing. `lading.manifest` is the way in."""
