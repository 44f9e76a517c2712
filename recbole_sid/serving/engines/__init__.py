"""Ways to rank, one module a family of models; registered in `recbole_sid.serving.engine`."""
