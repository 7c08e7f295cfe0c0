"""How long candidates take, predicted from the times of kernels that were measured. May import
search/candidates, compiler, device, build.py, lower, model, artifact, target.py and errors.py."""
