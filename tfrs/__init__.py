"""Deep learning on Sentinel-1 and Sentinel-2 imagery with TensorFlow and Keras."""

__version__ = "0.1.0"
