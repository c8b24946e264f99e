"""Measuring: the machine's limits, the operations beside what else can compute them, first calls and memory."""
