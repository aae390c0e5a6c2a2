"""Shape completion: from an object's visible masks to its complete ones (Sec. 5.4.1)."""
