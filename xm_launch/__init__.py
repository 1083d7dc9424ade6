"""Launchers for TPU pods: Vertex AI through XManager, and plain TPU VMs."""
