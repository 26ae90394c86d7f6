"""Optimize: give each chunk of a tensor its smallest exact form.

Start with `worker`, which follows a fine-tuned tensor from its sketch to a delta. `similarity` and
`related_files` find the stored tensors that it may derive from, `selector` picks encoders for them,
`encoders` and `forms` make the bytes. `backlog` and `apply` are the owner's side.
"""
