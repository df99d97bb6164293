"""The messages and services of the contract, generated from proto/haul/v1."""
