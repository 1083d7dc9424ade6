"""Launching runs on TPU pods: Vertex AI by XManager, and plain TPU VMs."""
