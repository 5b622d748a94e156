"""The OpenStack cloud: Nova, Cinder, Neutron and Glance through openstacksdk."""
