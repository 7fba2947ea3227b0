"""Getting data: what there is, over HTTP, unpacked safely, and known to be whole. No torch.

`catalogue` says what there is, `http` brings a file, `archives` unpacks it, `store` knows what lies on disk, and
`obtain` puts them together. A folder of data appears under its name whole, with its marker in it, or not at all.
"""
