//! What workers see of the node.
