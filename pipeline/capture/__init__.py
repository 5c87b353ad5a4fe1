"""From a model to one functional ATen graph whose answers depend on nothing but its inputs."""
