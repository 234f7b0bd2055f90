"""Privacy as a property of the data: what every field is, where it comes from, and what follows from that."""
