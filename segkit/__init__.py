"""segkit: from a folder of labelled images to exact results on gigapixel slides."""
