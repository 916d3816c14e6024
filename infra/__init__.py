"""Infrastructure as data and code: one template, what is made from it, what is checked against it."""
