"""What models are run on: values, the sizes of open dimensions, and what a graph demands of its inputs."""
