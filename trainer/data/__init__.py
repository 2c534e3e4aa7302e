"""From folders of endoscopic images to a balanced, augmented training stream."""
