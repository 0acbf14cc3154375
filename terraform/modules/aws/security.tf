# Nodes speak to the control plane, which never speaks to them first; nobody speaks to nodes.

resource "aws_security_group" "control_plane" {
  name_prefix = "${var.name}-control-plane-"
  description = "Nightshift control plane"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-control-plane" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "node" {
  name_prefix = "${var.name}-node-"
  description = "Nightshift nodes"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-node" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "agents" {
  security_group_id            = aws_security_group.control_plane.id
  description                  = "sessions of the agents, mTLS"
  ip_protocol                  = "tcp"
  from_port                    = local.agent_port
  to_port                      = local.agent_port
  referenced_security_group_id = aws_security_group.node.id
  tags                         = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "api" {
  for_each          = toset(var.api_allowed_cidrs)
  security_group_id = aws_security_group.control_plane.id
  description       = "the Kubernetes API, mTLS"
  ip_protocol       = "tcp"
  from_port         = local.api_port
  to_port           = local.api_port
  cidr_ipv4         = each.key
  tags              = local.tags
}

# The interfaces of AWS, and what the instance fetches at its first boot.
resource "aws_vpc_security_group_egress_rule" "control_plane_https" {
  security_group_id = aws_security_group.control_plane.id
  description       = "https"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
  tags              = local.tags
}

resource "aws_vpc_security_group_egress_rule" "node_agent" {
  security_group_id            = aws_security_group.node.id
  description                  = "the session of the agent"
  ip_protocol                  = "tcp"
  from_port                    = local.agent_port
  to_port                      = local.agent_port
  referenced_security_group_id = aws_security_group.control_plane.id
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "node_pods" {
  for_each          = toset(var.node_egress_cidrs)
  security_group_id = aws_security_group.node.id
  description       = "what pods may reach"
  ip_protocol       = "-1"
  cidr_ipv4         = each.key
  tags              = local.tags
}
