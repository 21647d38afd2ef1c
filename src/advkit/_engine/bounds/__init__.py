"""How far the outputs of a sequential network can move while its inputs move within a ball: bounds that always hold.

`layers` says what each layer does to intervals and to linear bounds, `chain` takes a network apart into such layers,
and `crown` puts them together again, from the last one backwards.
"""
