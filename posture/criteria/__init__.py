"""The content of this room: criteria, instruments, bindings, login pairs and paths, with their JSON Schemas."""
